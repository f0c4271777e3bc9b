-- Each post by the hour.
SELECT
    date_trunc('hour', minute) AS hour,
    site,
    url,
    sum(page_views) AS page_views,
    sum(shares) AS shares,
    combine(visitors) AS visitors,
    sum(engaged_ms) AS engaged_ms
FROM post_minutes
GROUP BY 1, 2, 3
