SELECT url, last_value(title ORDER BY ts) AS title, last_value(section ORDER BY ts) AS section FROM posts GROUP BY url
