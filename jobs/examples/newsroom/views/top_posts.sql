-- The ten posts of each site and day (in UTC) that are read most. Uniques are exact here.
SELECT day, site, place, url, page_views, visitors
FROM (
    SELECT
        *,
        row_number() OVER (PARTITION BY day, site ORDER BY page_views DESC, url) AS place
    FROM (
        SELECT
            date_trunc('day', ts) AS day,
            site,
            url,
            count(*) AS page_views,
            count(DISTINCT visitor) AS visitors
        FROM events
        WHERE action = 'pageview'
        GROUP BY 1, 2, 3
    )
)
WHERE place <= 10
