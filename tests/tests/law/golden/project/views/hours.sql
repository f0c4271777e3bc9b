SELECT date_trunc('hour', ts) AS hour, url, count(*) AS reads, sum(seconds) AS seconds, avg(seconds) AS mean,
       count(DISTINCT visitor) AS visitors, approx_distinct(visitor) AS about, max(ts) AS last,
       first_value(author ORDER BY ts) AS first_author
FROM reads GROUP BY 1, 2
