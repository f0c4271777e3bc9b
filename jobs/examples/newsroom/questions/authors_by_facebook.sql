-- Which authors drive the most traffic from Facebook, and what share of their readers is that?
SELECT
    author,
    sum(from_facebook) AS from_facebook,
    sum(page_views) AS page_views,
    round(100.0 * sum(from_facebook) / sum(page_views), 1) AS percent,
    combine(visitors) AS visitors
FROM author_hours
WHERE hour >= now() - INTERVAL '7 days' AND author IS NOT NULL
GROUP BY author
HAVING sum(page_views) > 0
ORDER BY from_facebook DESC, author
LIMIT 10;
