SELECT author, count(*) AS reads FROM reads GROUP BY author HAVING count(*) > 15 AND author IS NOT NULL
