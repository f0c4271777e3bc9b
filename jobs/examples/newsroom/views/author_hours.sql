-- Each author by the hour. What the crawler has not found yet, and what is gone, has no author.
SELECT
    date_trunc('hour', e.ts) AS hour,
    posts.author,
    count(*) FILTER (WHERE e.action = 'pageview') AS page_views,
    count(*) FILTER (WHERE e.action = 'pageview' AND e.referrer LIKE '%facebook.com/%') AS from_facebook,
    count(*) FILTER (WHERE e.action = 'share') AS shares,
    approx_distinct(e.visitor) AS visitors,
    sum(e.engaged_ms) AS engaged_ms
FROM events e LEFT JOIN posts ON posts.url = e.url
GROUP BY 1, 2
