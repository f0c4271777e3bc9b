-- The visitors of each site and day (in UTC): those that were never there before, and the others.
SELECT
    site,
    day,
    count(*) FILTER (WHERE day = first_day) AS new_visitors,
    count(*) FILTER (WHERE day > first_day) AS returning_visitors,
    sum(page_views) FILTER (WHERE day = first_day) AS of_new,
    sum(page_views) FILTER (WHERE day > first_day) AS of_returning
FROM (
    SELECT *, min(day) OVER (PARTITION BY site, visitor) AS first_day
    FROM (
        SELECT site, date_trunc('day', ts) AS day, visitor, count(*) AS page_views
        FROM events
        WHERE action = 'pageview'
        GROUP BY 1, 2, 3
    )
)
GROUP BY 1, 2
