import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;

/**
 * Asks a daemon with the JDBC drivers; ends with 0 where all is right.
 *
 * <pre>Clients postgres|flight URL [USER TOKEN]</pre>
 *
 * The daemon has the tests' topic `facts` with the ids 0 to 999, and the view `words` over it. With
 * `postgres` it says `prepared` when a statement was executed eight times, and executes it eight times more
 * once it is sent a line; the view has one column more then.
 */
public class Clients {
    public static void main(String[] arguments) throws Exception {
        Properties who = new Properties();
        who.setProperty("user", arguments.length > 2 ? arguments[2] : "me");
        if (arguments.length > 3) {
            who.setProperty("password", arguments[3]);
        }
        try (Connection connection = DriverManager.getConnection(arguments[1], who)) {
            asks(connection);
            switch (arguments[0]) {
                case "postgres":
                    ofPostgres(connection);
                    describes(connection, null);
                    acrossACutOver(connection);
                    break;
                default:
                    describes(connection, "anabranch");
            }
        }
    }

    static void check(String what, Object found, Object expected) {
        if (!Objects.equals(found, expected)) {
            throw new IllegalStateException(what + ": " + found + ", not " + expected);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> all = new ArrayList<>();
        while (rows.next()) {
            all.add(rows.getString(name));
        }
        return all;
    }

    static void asks(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT count(*) AS n, min(word) AS w FROM facts")) {
            check("a row", rows.next(), true);
            check("count", rows.getLong("n"), 1000L);
            check("no more", rows.next(), false);
        }
        String types = "SELECT 7 AS a, 1.5::double AS b, 12.34::decimal(10, 2) AS c, 'ü' AS d, true AS e, NULL AS f,"
                + " to_timestamp('2026-01-02T03:04:05Z') AS g, X'00ff' AS h, date '1969-12-31' AS i";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(types)) {
            rows.next();
            check("bigint", rows.getLong("a"), 7L);
            check("double", rows.getDouble("b"), 1.5);
            check("decimal", rows.getBigDecimal("c"), new BigDecimal("12.34"));
            check("varchar", rows.getString("d"), "ü");
            check("boolean", rows.getBoolean("e"), true);
            check("null", rows.getObject("f"), null);
            check("timestamp", rows.getTimestamp("g").toInstant().toString(), "2026-01-02T03:04:05Z");
            check("binary", Arrays.toString(rows.getBytes("h")), "[0, -1]");
            check("date", rows.getDate("i").toString(), "1969-12-31");
        }
        String sql = "SELECT id FROM facts WHERE id > ? AND word <> ? ORDER BY id LIMIT 3";
        if (connection.getMetaData().getDriverName().contains("Arrow")) {
            sql = "SELECT id FROM facts WHERE id > $1 AND word <> $2 ORDER BY id LIMIT 3";
        }
        // As often as a driver executes what it has not prepared on the server, and more.
        try (PreparedStatement prepared = connection.prepareStatement(sql)) {
            for (long after = 10; after < 18; after++) {
                prepared.setLong(1, after);
                prepared.setString(2, "it's nothing");
                try (ResultSet rows = prepared.executeQuery()) {
                    List<String> expected = List.of("" + (after + 1), "" + (after + 2), "" + (after + 3));
                    check("parameters", column(rows, "id"), expected);
                }
            }
        }
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT a.id FROM facts AS a CROSS JOIN facts AS b WHERE b.id < 100")) {
            long count = 0;
            while (rows.next()) {
                count++;
            }
            check("a large answer", count, 100_000L);
        }
        try (Statement statement = connection.createStatement()) {
            statement.executeQuery("SELECT nothing FROM facts");
            throw new IllegalStateException("no error");
        } catch (SQLException e) {
            check(e.toString(), e.getMessage().contains("nothing"), true);
        }
    }

    static void describes(Connection connection, String catalogue) throws SQLException {
        DatabaseMetaData about = connection.getMetaData();
        try (ResultSet rows = about.getTables(catalogue, "public", "w%", new String[] {"VIEW"})) {
            check("views", column(rows, "TABLE_NAME"), List.of("words"));
        }
        try (ResultSet rows = about.getTables(catalogue, "public", "facts", null)) {
            check("topics", column(rows, "TABLE_NAME"), List.of("facts"));
        }
        try (ResultSet rows = about.getColumns(catalogue, "public", "words", "%")) {
            check("columns", column(rows, "COLUMN_NAME").subList(0, 1), List.of("word"));
        }
        try (ResultSet rows = about.getPrimaryKeys(catalogue, "public", "words")) {
            check("keys", column(rows, "COLUMN_NAME"), List.of("word"));
        }
        try (ResultSet rows = about.getSchemas()) {
            check("schemas", column(rows, "TABLE_SCHEM").contains("public"), true);
        }
        if (catalogue == null) {
            // That of Arrow Flight SQL asks nobody.
            try (ResultSet rows = about.getTypeInfo()) {
                check("types", rows.next(), true);
            }
        }
        try (ResultSet rows = about.getImportedKeys(catalogue, "public", "words")) {
            check("foreign keys", rows.next(), false);
        }
        try (ResultSet rows = about.getTableTypes()) {
            check("kinds", column(rows, "TABLE_TYPE").contains("VIEW"), true);
        }
    }

    static void ofPostgres(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(100);
            try (ResultSet rows = statement.executeQuery("SELECT id FROM facts ORDER BY id")) {
                check("in portions", column(rows, "id").size(), 1000);
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(7);
            check("the most rows", column(statement.executeQuery("SELECT id FROM facts"), "id").size(), 7);
        }
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.executeQuery("SELECT sum(value % 7) FROM generate_series(1, 1000000000000)");
            throw new IllegalStateException("no limit of time");
        } catch (SQLException e) {
            check("too late", e.getSQLState(), "57014");
        }
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT array[1, NULL, 3] AS a")) {
            rows.next();
            check("a list", Arrays.toString((Object[]) rows.getArray(1).getArray()), "[1, null, 3]");
        }
    }

    static void acrossACutOver(Connection connection) throws Exception {
        try (PreparedStatement prepared = connection.prepareStatement("SELECT * FROM words WHERE word <> ? ORDER BY word")) {
            prepared.setString(1, "nothing");
            int columns = 0;
            for (int run = 0; run < 8; run++) {
                try (ResultSet rows = prepared.executeQuery()) {
                    columns = rows.getMetaData().getColumnCount();
                    rows.next();
                }
            }
            System.out.println("prepared");
            new BufferedReader(new InputStreamReader(System.in)).readLine();
            for (int run = 0; run < 8; run++) {
                try (ResultSet rows = prepared.executeQuery()) {
                    check("a column more", rows.getMetaData().getColumnCount(), columns + 1);
                    check("a row", rows.next(), true);
                }
            }
        }
    }
}
