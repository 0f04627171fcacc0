//! Text that is safe within HTML, SVG and XML, and the frame of all pages.

/// Escapes text for an element or a quoted attribute. Characters that XML cannot
/// have at all become a replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Cuts a text for people at so many characters.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#1c2330}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #d5dae3}
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.25em .7em;text-align:left;border-bottom:1px solid #e6e9ef;vertical-align:top}
code,pre{font:12px/1.4 ui-monospace,monospace;background:#f4f6f9;border-radius:3px;padding:.1em .3em;overflow-wrap:anywhere}
pre{padding:.6em;overflow-x:auto}.valid{color:#1a7f37}.violation{color:#c1121f}.unknown{color:#9a6700}
.word{font-weight:600;text-transform:uppercase}small{color:#5b6575}svg{display:block;max-width:100%;height:auto;background:#fff}
";

/// A whole page around `body`, which is markup already.
pub(super) fn frame(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta http-equiv=\"\
         Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

/// A verdict's word, coloured.
pub(super) fn word(word: &str) -> String {
    let word = escape(word);
    format!("<span class=\"word {word}\">{word}</span>")
}
