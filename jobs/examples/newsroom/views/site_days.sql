-- Each site by its own day: the day begins at midnight where the site is read. Minutes are rolled
-- up, not hours, because Kolkata's midnight is at half past an hour of UTC.
SELECT
    site,
    CASE site
        WHEN 'gazette.example' THEN date_trunc('day', minute, 'America/New_York')
        WHEN 'herald.example' THEN date_trunc('day', minute, 'America/New_York')
        WHEN 'tribune.example' THEN date_trunc('day', minute, 'America/Los_Angeles')
        WHEN 'observer.example' THEN date_trunc('day', minute, 'Europe/London')
        WHEN 'courier.example' THEN date_trunc('day', minute, 'Europe/London')
        WHEN 'chronicle.example' THEN date_trunc('day', minute, 'Europe/Berlin')
        WHEN 'dispatch.example' THEN date_trunc('day', minute, 'Asia/Kolkata')
        WHEN 'monitor.example' THEN date_trunc('day', minute, 'Australia/Sydney')
        ELSE date_trunc('day', minute)
    END AS day_began,
    sum(page_views) AS page_views,
    sum(shares) AS shares,
    combine(visitors) AS visitors,
    sum(engaged_ms) AS engaged_ms
FROM post_minutes
GROUP BY 1, 2
