-- Each site by the hour: a time series.
SELECT
    hour,
    site,
    sum(page_views) AS page_views,
    sum(shares) AS shares,
    combine(visitors) AS visitors,
    count(DISTINCT url) AS posts,
    sum(engaged_ms) AS engaged_ms
FROM post_hours
GROUP BY 1, 2
