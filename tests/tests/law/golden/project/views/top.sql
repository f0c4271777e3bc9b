SELECT url, count(*) AS reads, sum(seconds) AS seconds FROM reads GROUP BY url ORDER BY reads DESC, url LIMIT 3
