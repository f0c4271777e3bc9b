-- How did each site's last days go, by its own clock?
SELECT site, day_began, page_views, visitors, shares, engaged_ms / 60000 AS engaged_minutes
FROM site_days
WHERE day_began >= now() - INTERVAL '4 days'
ORDER BY site, day_began;
