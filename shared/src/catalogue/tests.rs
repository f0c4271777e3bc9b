//! Numbers of generations in the catalogue.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

/// A view that is dropped and declared again under its name must not find its former states.
#[tokio::test]
async fn a_generation_is_never_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let catalogue = Catalogue::open(&storage).await.unwrap();
    assert_eq!(
        catalogue.claim_generation("v").await.unwrap(),
        Generation(1)
    );
    assert_eq!(
        catalogue.claim_generation("v").await.unwrap(),
        Generation(2)
    );
    catalogue.drop_view("v").await.unwrap();
    assert!(!catalogue.current().views.contains_key("v"));
    let again = Catalogue::open(&storage).await.unwrap();
    assert_eq!(again.claim_generation("v").await.unwrap(), Generation(3));
}
