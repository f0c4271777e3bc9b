SELECT url, reads FROM hours WHERE hour = '2026-03-29T01:00:00Z' AND url = '/a'
