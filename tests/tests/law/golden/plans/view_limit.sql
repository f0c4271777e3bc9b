SELECT url FROM top WHERE url = '/a'
