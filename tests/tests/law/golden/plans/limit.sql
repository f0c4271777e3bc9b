SELECT url, reads FROM hours ORDER BY reads DESC LIMIT 2
