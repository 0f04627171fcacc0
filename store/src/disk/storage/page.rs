//! Bytes that lie in memory as direct IO wants them.

use super::PAGE_BYTES;
use std::ops::Deref;

/// A buffer that begins at the start of a page in memory, as long as it holds no
/// more than it was [begun](Self::begin) for. If it grows further it is still
/// right, but is written through the kernel's cache.
#[derive(Default)]
pub struct PageBuffer {
    bytes: Vec<u8>,
    /// Where the first page starts.
    start: usize,
}

impl PageBuffer {
    /// Empties the buffer and makes room for `bytes_max` bytes.
    pub fn begin(&mut self, bytes_max: usize) {
        self.bytes.clear();
        let needed = bytes_max + PAGE_BYTES;
        if self.bytes.capacity() < needed {
            self.bytes = Vec::with_capacity(needed);
        }
        self.start = self.bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        self.bytes.resize(self.start, 0);
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends zeros.
    pub fn extend_zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Whether bytes can be written to the offset past the kernel's cache.
pub(super) fn is_in_pages(bytes: &[u8], offset: u64) -> bool {
    let aligned = bytes.as_ptr().align_offset(PAGE_BYTES) == 0;
    aligned && bytes.len().is_multiple_of(PAGE_BYTES) && offset.is_multiple_of(PAGE_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_with_a_page() {
        let mut buffer = PageBuffer::default();
        for bytes_max in [1, 5000, 100, 1 << 20, 8192] {
            buffer.begin(bytes_max);
            assert!(buffer.is_empty());
            buffer.extend_from_slice(&vec![7; bytes_max / 2]);
            buffer.extend_zeros(bytes_max - bytes_max / 2);
            assert_eq!(buffer.len(), bytes_max);
            assert_eq!(is_in_pages(&buffer, 4096), bytes_max % PAGE_BYTES == 0);
            assert!(!is_in_pages(&buffer, 512));
            assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), bytes_max / 2);
        }
    }
}
