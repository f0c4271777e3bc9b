-- Each post by the minute.
SELECT
    date_trunc('minute', ts) AS minute,
    site,
    url,
    count(*) FILTER (WHERE action = 'pageview') AS page_views,
    count(*) FILTER (WHERE action = 'share') AS shares,
    approx_distinct(visitor) AS visitors,
    sum(engaged_ms) AS engaged_ms
FROM events
GROUP BY 1, 2, 3
