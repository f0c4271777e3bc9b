//! `[http] base`: a path that a proxy leaves before the daemon's own ones. The daemon answers with it and
//! without, since other daemons and commands know nothing of the proxy.

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::response::Redirect;
use axum::routing::get;
use tower::ServiceExt;

/// What is served, also under a path.
pub(super) fn under(base: &str, app: Router) -> Router {
    let (console, base) = (format!("{base}/console/"), base.to_owned());
    let start = get(async move || Redirect::temporary(&console));
    let of_base = base.clone();
    let app = app.map_request(move |request| without(&of_base, request));
    Router::new().route(&base, start).fallback_service(app)
}

/// The request without the path before its own.
fn without(base: &str, mut request: Request) -> Request {
    let stripped = own(base, request.uri());
    if let Some(uri) = stripped {
        *request.uri_mut() = uri;
    }
    request
}

fn own(base: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(base)?;
    // Otherwise it is another path that begins with the same letters.
    let rest = rest.starts_with('/').then_some(rest)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_taken_off_where_it_is_one() {
        for (given, expected) in [
            ("/facts/sql", Some("/sql")),
            ("/facts/", Some("/")),
            (
                "/facts/views/a%2Fb?k=/facts/x",
                Some("/views/a%2Fb?k=/facts/x"),
            ),
            ("http://h:1/facts/sql?x", Some("http://h:1/sql?x")),
            ("/facts", None),
            ("/facts?x", None),
            ("/factsheet", None),
            ("/sql", None),
        ] {
            let given: Uri = given.parse().unwrap_or_default();
            let own = own("/facts", &given).map(|uri| uri.to_string());
            assert_eq!(own.as_deref(), expected, "{given}");
        }
    }
}
