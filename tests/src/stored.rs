//! Stored entries as other versions would have written them: changed, and without the checksums that
//! version 0.1.0 did not have.

use std::path::Path;

/// What comes before and after the checksum in an entry of a table's log, and of the catalogue.
const CHECKSUMS: [(&str, &str); 2] = [("\"anabranchCrc32c\":", ","), (",\n  \"crc32c\": ", "\n}")];

/// Changes the text of an entry, and takes its checksum out.
pub fn edit(path: &Path, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    let mut text = std::fs::read_to_string(path)?;
    for (before, after) in CHECKSUMS {
        if let Some(start) = text.find(before) {
            let digits = start + before.len();
            let length = text[digits..].find(after);
            let end = digits + length.ok_or_else(|| anyhow::anyhow!("no end: {text}"))?;
            // A comma after the checksum goes with it, the end of the entry stays.
            let end = if after == "," { end + 1 } else { end };
            text.replace_range(start..end, "");
        }
    }
    Ok(std::fs::write(path, change(text))?)
}
