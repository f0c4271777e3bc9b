-- Of what the crawler fetched, the metadata of a post. A page that could not be fetched, or is no
-- article, says nothing; one that is gone (410) takes its post out of the reference.
SELECT
    fetched_at AS version_ts,
    url,
    json_get_str(page, 'headline') AS title,
    json_get_str(page, 'author', 'name') AS author,
    json_get_str(page, 'articleSection') AS section,
    CAST(json_get_str(page, 'datePublished') AS timestamp) AS published,
    status = 410 AS gone
FROM crawls
WHERE status = 410 OR (status = 200 AND json_get_str(page, '@type') = 'NewsArticle')
