//! A changed byte in one of a node's files, as a bad sector leaves it.

use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What was changed.
#[derive(Debug)]
pub(crate) struct Damage {
    /// The file, below the data directory.
    pub(crate) file: String,
    /// Where in it.
    pub(crate) offset: u64,
}

/// Changes one bit below `data`/`part`, at `permille` of all bytes that are not
/// zero at the end of their files. The process must not run.
///
/// # Errors
///
/// Fails if there is nothing to damage, or a file refuses.
pub(crate) fn flip(data: &Path, part: &str, permille: u64) -> Result<Damage> {
    let mut files = Vec::new();
    collect(&data.join(part), &mut files)?;
    files.sort();
    let sized: Vec<(PathBuf, u64)> = files
        .into_iter()
        .filter_map(|file| written_bytes(&file).ok().map(|bytes| (file, bytes)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    let total: u64 = sized.iter().map(|(_, bytes)| bytes).sum();
    ensure!(total > 0, "there is nothing to damage in {part}");
    let mut place = total.saturating_sub(1) * permille.min(1000) / 1000;
    for (path, bytes) in sized {
        if place < bytes {
            let file = File::options().read(true).write(true).open(&path);
            let file = file.context("open a file to damage it")?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).context("read a byte")?;
            file.write_all_at(&[byte[0] ^ 0x10], place).context("change a byte")?;
            file.sync_all().context("keep the damage")?;
            let file = path.strip_prefix(data).unwrap_or(&path).display().to_string();
            return Ok(Damage { file, offset: place });
        }
        place -= bytes;
    }
    anyhow::bail!("there is nothing to damage in {part}")
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.context("list files")?;
        let kind = entry.file_type().context("ask for a file's type")?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Bytes up to the last that is not zero: files are allocated ahead, and damage
/// to what was never written proves nothing.
fn written_bytes(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |place| place as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_what_was_written_changes() {
        let dir = std::env::temp_dir().join(format!("jepsen-flip-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("log/deep")).unwrap();
        let mut segment = vec![7; 100];
        segment.resize(10_000, 0);
        std::fs::write(dir.join("log/deep/1"), &segment).unwrap();
        let damage = flip(&dir, "log", 999).unwrap();
        assert!(damage.offset < 100, "{damage:?}");
        let after = std::fs::read(dir.join("log/deep/1")).unwrap();
        assert_eq!(after.iter().zip(&segment).filter(|(a, b)| a != b).count(), 1);
        assert!(flip(&dir, "state", 0).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
