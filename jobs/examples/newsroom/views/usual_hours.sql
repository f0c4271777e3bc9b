-- Each site's hours, each beside the usual: the mean of the same hour of the same weekday (in UTC) of
-- the four weeks before. `weeks` is how many of them had page views.
SELECT
    hour,
    site,
    page_views,
    avg(page_views) OVER same_hour AS usual,
    count(*) OVER same_hour AS weeks
FROM (
    SELECT date_trunc('hour', ts) AS hour, site, count(*) AS page_views
    FROM events
    WHERE action = 'pageview'
    GROUP BY 1, 2
)
WINDOW same_hour AS (
    PARTITION BY site, date_part('dow', hour), date_part('hour', hour)
    ORDER BY hour
    RANGE BETWEEN INTERVAL '28 days' PRECEDING AND INTERVAL '7 days' PRECEDING
)
