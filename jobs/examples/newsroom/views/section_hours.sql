-- Each section by the hour: a roll-up that meets the metadata on its parent's keys.
SELECT
    post_hours.hour,
    posts.section,
    sum(post_hours.page_views) AS page_views,
    sum(post_hours.shares) AS shares,
    combine(post_hours.visitors) AS visitors,
    count(DISTINCT post_hours.url) AS posts,
    sum(post_hours.engaged_ms) AS engaged_ms
FROM post_hours LEFT JOIN posts ON posts.url = post_hours.url
GROUP BY 1, 2
