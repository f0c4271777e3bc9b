-- Which five posts led each site yesterday (in UTC)?
SELECT t.site, t.place, t.url, p.title, p.section, t.page_views, t.visitors
FROM top_posts t LEFT JOIN posts p ON p.url = t.url
WHERE t.day = date_trunc('day', now()) - INTERVAL '1 day' AND t.place <= 5
ORDER BY t.site, t.place;
