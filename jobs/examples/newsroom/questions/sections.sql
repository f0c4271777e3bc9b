-- How are the sections read, and by how many visitors? NULL is what the crawler has not found yet.
SELECT
    section,
    sum(page_views) AS page_views,
    combine(visitors) AS visitors,
    combine(posts) AS posts,
    sum(engaged_ms) / 60000 AS engaged_minutes
FROM section_hours
WHERE hour >= now() - INTERVAL '7 days'
GROUP BY section
ORDER BY page_views DESC, section;
