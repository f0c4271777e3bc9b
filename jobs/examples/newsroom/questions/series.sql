-- How did the last day go, hour by hour, over all sites?
SELECT
    hour,
    sum(page_views) AS page_views,
    combine(visitors) AS visitors,
    sum(engaged_ms) / 60000 AS engaged_minutes
FROM site_hours
WHERE hour >= now() - INTERVAL '24 hours'
GROUP BY hour
ORDER BY hour;
