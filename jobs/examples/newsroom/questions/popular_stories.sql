-- What are the most popular stories of the last 4 hours?
SELECT
    m.url,
    p.title,
    p.author,
    sum(m.page_views) AS page_views,
    combine(m.visitors) AS visitors,
    sum(m.engaged_ms) / 1000 AS engaged_seconds
FROM post_minutes m LEFT JOIN posts p ON p.url = m.url
WHERE m.minute >= now() - INTERVAL '4 hours'
GROUP BY m.url, p.title, p.author
ORDER BY page_views DESC, m.url
LIMIT 10;
