-- Each site in one row, over all time.
SELECT
    site,
    count(*) FILTER (WHERE action = 'pageview') AS page_views,
    count(*) FILTER (WHERE action = 'share') AS shares,
    count(DISTINCT visitor) AS visitors,
    count(DISTINCT url) AS posts,
    sum(engaged_ms) AS engaged_ms,
    median(engaged_ms) AS median_engaged_ms,
    min(ts) AS first_at,
    max(ts) AS last_at
FROM events
GROUP BY 1
