-- Is what is read thoroughly shared more? Posts by the time engaged of a page view, in four equal parts.
WITH totals AS (
    SELECT url, sum(page_views) AS page_views, sum(shares) AS shares, sum(engaged_ms) AS engaged_ms
    FROM post_days
    GROUP BY url
    HAVING sum(page_views) >= 20
), parts AS (
    SELECT *, ntile(4) OVER (ORDER BY coalesce(engaged_ms, 0) / page_views, url) AS part FROM totals
)
SELECT
    part,
    count(*) AS posts,
    round(sum(engaged_ms) / 1000.0 / sum(page_views), 1) AS engaged_seconds_a_view,
    round(1000.0 * sum(shares) / sum(page_views), 1) AS shares_a_thousand_views
FROM parts
GROUP BY part
ORDER BY part;
