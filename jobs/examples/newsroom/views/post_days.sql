-- Each post by the day, in UTC.
SELECT
    date_trunc('day', hour) AS day,
    site,
    url,
    sum(page_views) AS page_views,
    sum(shares) AS shares,
    combine(visitors) AS visitors,
    sum(engaged_ms) AS engaged_ms
FROM post_hours
GROUP BY 1, 2, 3
