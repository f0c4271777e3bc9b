-- Which sites have more readers than usual? The last six full hours, beside the same hours of the four
-- weeks before.
SELECT
    site,
    sum(page_views) AS page_views,
    round(sum(usual), 1) AS usual,
    round(100.0 * sum(page_views) / sum(usual) - 100, 0) AS percent_more,
    min(weeks) AS weeks
FROM usual_hours
WHERE hour >= date_trunc('hour', now()) - INTERVAL '6 hours' AND hour < date_trunc('hour', now())
GROUP BY site
ORDER BY percent_more DESC NULLS LAST, site;
