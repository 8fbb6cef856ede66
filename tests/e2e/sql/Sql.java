import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;

/** Signs in to a database by the URL that it is given, and prints as whom, or why not. */
public final class Sql {
    private Sql() {}

    public static void main(String[] args) {
        try (Connection connection = DriverManager.getConnection(args[0]);
                ResultSet rows = connection.createStatement().executeQuery("SELECT SUSER_SNAME()")) {
            rows.next();
            System.out.println("signed in as " + rows.getString(1));
        } catch (SQLException error) {
            System.out.println("refused: " + error.getMessage());
        }
    }
}
