-- How do visits go? By the page on which they begin: sessions, bounces (one page), pages and time
-- engaged of each.
WITH visits AS (
    SELECT site, visitor, unnest(sessions) AS visit FROM visitor_sessions
), sessions AS (
    SELECT
        site,
        visitor,
        visit['start'] AS began_at,
        visit['value_1']['first'] AS entry,
        visit['value_1']['last'] AS exit,
        CAST(visit['value_2']['sum'] AS BIGINT) AS pages,
        CAST(coalesce(visit['value_3']['sum'], 0) AS BIGINT) AS engaged_ms
    FROM visits
)
SELECT
    entry,
    count(*) AS sessions,
    round(100.0 * count(*) FILTER (WHERE pages = 1) / count(*), 1) AS bounce_percent,
    round(avg(pages), 2) AS pages,
    round(avg(engaged_ms) / 1000, 1) AS engaged_seconds,
    count(*) FILTER (WHERE exit = entry) AS left_where_they_began
FROM sessions
WHERE began_at >= now() - INTERVAL '7 days' AND pages > 0
GROUP BY entry
ORDER BY sessions DESC, entry
LIMIT 10;
