SELECT section, combine(visitors) AS visitors FROM hours JOIN titles USING (url) GROUP BY section
