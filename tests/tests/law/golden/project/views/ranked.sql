SELECT url, count(*) AS reads, rank() OVER (ORDER BY count(*) DESC) AS place FROM reads GROUP BY url
