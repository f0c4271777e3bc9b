-- Each post by the hour and by where its readers come from.
SELECT
    date_trunc('hour', ts) AS hour,
    site,
    url,
    CASE
        WHEN referrer IS NULL THEN 'direct'
        WHEN split_part(referrer, '/', 3) LIKE '%.example' THEN 'internal'
        WHEN split_part(referrer, '/', 3) LIKE '%facebook.com' THEN 'facebook'
        WHEN split_part(referrer, '/', 3) IN ('t.co', 'twitter.com') THEN 'twitter'
        WHEN split_part(referrer, '/', 3) LIKE 'www.google.%' THEN 'search'
        WHEN split_part(referrer, '/', 3) IN ('www.bing.com', 'duckduckgo.com') THEN 'search'
        ELSE 'other'
    END AS source,
    count(*) AS page_views,
    approx_distinct(visitor) AS visitors
FROM events
WHERE action = 'pageview'
GROUP BY 1, 2, 3, 4
