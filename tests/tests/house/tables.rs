//! The layout of the repository and of the tables: what readers of either rely on.

use std::path::Path;

/// `batch`, `speed` and `serving` know only `shared`.
#[test]
fn layers_know_only_the_words() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for layer in ["batch", "speed", "serving"] {
        let manifest = std::fs::read_to_string(root.join(layer).join("Cargo.toml"))?;
        let ours: Vec<&str> = manifest
            .lines()
            .filter_map(|l| l.strip_prefix("anabranch-"))
            .filter(|l| !l.starts_with("shared"))
            .collect();
        assert!(ours.is_empty(), "`{layer}` depends on {ours:?}");
    }
    Ok(())
}
