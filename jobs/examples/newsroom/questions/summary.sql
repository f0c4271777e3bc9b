-- What is each site, in one row?
SELECT
    site, page_views, visitors, posts, shares,
    engaged_ms / 3600000 AS engaged_hours,
    round(median_engaged_ms / 1000.0, 1) AS median_engaged_seconds,
    first_at, last_at
FROM site_summary
ORDER BY page_views DESC, site;
