-- Who wrote what is read, by today's metadata? The join runs in the query, so what was corrected a
-- minute ago counts already; `author_hours` is faster, and has it after the nightly rebuild.
SELECT p.author, sum(h.page_views) AS page_views, combine(h.visitors) AS visitors
FROM post_hours h LEFT JOIN posts p ON p.url = h.url
WHERE h.hour >= now() - INTERVAL '7 days'
GROUP BY p.author
ORDER BY page_views DESC, p.author
LIMIT 10;
