-- How many visitors are new, and how many come back? By site, over the last seven days.
SELECT
    site,
    sum(new_visitors) AS new_visitors,
    sum(of_new) AS their_page_views,
    sum(returning_visitors) AS returning_days,
    sum(of_returning) AS page_views_of_returning,
    round(100.0 * sum(new_visitors) / sum(new_visitors + returning_visitors), 1) AS percent_new
FROM new_returning
WHERE day >= date_trunc('day', now()) - INTERVAL '7 days'
GROUP BY site
ORDER BY site;
