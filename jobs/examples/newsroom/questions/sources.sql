-- Where do readers come from? Uniques of a source over all posts, by merging their sketches.
SELECT source, sum(page_views) AS page_views, combine(visitors) AS visitors, count(DISTINCT url) AS posts
FROM post_sources
WHERE hour >= now() - INTERVAL '7 days'
GROUP BY source
ORDER BY page_views DESC, source;
