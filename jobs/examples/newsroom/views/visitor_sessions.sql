-- The sessions of each visitor of a site: a session ends where nothing comes for half an hour. Of
-- each: its first and last page, its pages, and the time engaged.
SELECT
    site,
    visitor,
    sessions(
        ts,
        INTERVAL '30 minutes',
        CASE WHEN action = 'pageview' THEN url END,
        CASE WHEN action = 'pageview' THEN 1 ELSE 0 END,
        engaged_ms
    ) AS sessions
FROM events
GROUP BY 1, 2
