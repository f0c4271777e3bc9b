//! How the generations of a view came to answer: kept for good, beside the catalogue, whose entries hold
//! the last one of each view alone.

use anabranch_shared::{CreateOutcome, Error, Result, Succession, layout};

use crate::project::context::Context;

/// Keeps how the generation of a view that answers came to do so, where that is not kept yet. Whoever
/// changes what answers does it before and after: nothing is lost where a process dies in between.
pub(crate) async fn keep(context: &Context, view: &str) -> Result<()> {
    let entry = context.catalogue.current();
    let Some(came) = entry.views.get(view).and_then(|v| v.came.as_ref()) else {
        return Ok(());
    };
    let body = serde_json::to_vec_pretty(came).map_err(|e| Error::Internal(e.to_string()))?;
    let path = layout::succession(view, came.entry);
    match context.storage.create(&path, body).await? {
        CreateOutcome::Created | CreateOutcome::Exists => Ok(()),
    }
}

/// How generations of a view came to answer, the newest first, also under the names that it had before.
///
/// # Errors
/// `Corrupt` for what is no such record.
pub async fn of_view(context: &Context, view: &str) -> Result<Vec<Succession>> {
    let (mut all, mut names, mut read) = (Vec::new(), vec![view.to_owned()], 0);
    while let Some(name) = names.get(read).cloned() {
        for succession in of_name(context, &name).await? {
            let former = succession.moved_from.iter();
            names.extend(
                former
                    .filter(|former| !names.contains(former))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            all.push(succession);
        }
        read += 1;
    }
    all.sort_by_key(|s| std::cmp::Reverse(s.entry));
    Ok(all)
}

/// The same under one name.
async fn of_name(context: &Context, view: &str) -> Result<Vec<Succession>> {
    let mut all: Vec<Succession> = Vec::new();
    for object in context.storage.list_below(&layout::history(view)).await? {
        let Some(body) = context.storage.get(&object.location).await? else {
            continue;
        };
        let read = serde_json::from_slice(&body);
        all.push(read.map_err(|e| {
            Error::Corrupt(format!(
                "`{}` is no record of a cut-over: {e}; remove it",
                object.location
            ))
        })?);
    }
    let entry = context.catalogue.current();
    if let Some(came) = entry.views.get(view).and_then(|v| v.came.as_ref())
        && !all.iter().any(|s| s.entry == came.entry)
    {
        all.push(came.clone());
    }
    Ok(all)
}
