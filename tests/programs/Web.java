import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.concurrent.Executors;

/** A web server that sends and takes bodies, and a client that compares. */
public class Web {
    static final int LARGE = 8 << 20;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        if (arguments[0].equals("serve")) {
            serve(port);
        } else {
            ask(port);
        }
    }

    static String hash(byte[] bytes) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    }

    static byte[] body(int size) {
        byte[] bytes = new byte[size];
        for (int i = 0; i < size; i++) {
            bytes[i] = (byte) (i * 31);
        }
        return bytes;
    }

    static void serve(int port) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 64);
        server.setExecutor(Executors.newFixedThreadPool(4));
        byte[] all = body(LARGE);
        server.createContext("/", exchange -> {
            try (exchange) {
                answer(exchange, all);
            } catch (Exception problem) {
                problem.printStackTrace();
            }
        });
        server.start();
    }

    static void answer(HttpExchange exchange, byte[] all) throws Exception {
        byte[] sent = exchange.getRequestMethod().equals("PUT")
                ? hash(exchange.getRequestBody().readAllBytes()).getBytes()
                : Arrays.copyOf(all, Integer.parseInt(exchange.getRequestURI().getPath().substring(1)));
        exchange.sendResponseHeaders(200, sent.length);
        exchange.getResponseBody().write(sent);
    }

    static void ask(int port) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        String at = "http://127.0.0.1:" + port + "/";
        long total = 0;
        for (int i = 0; i < 800; i++) {
            total += client.send(HttpRequest.newBuilder(URI.create(at + (100 + i % 50))).build(),
                    BodyHandlers.ofByteArray()).body().length;
        }
        System.out.println("small " + total);
        for (int i = 0; i < 4; i++) {
            System.out.println("got " + hash(client.send(HttpRequest.newBuilder(URI.create(at + LARGE)).build(),
                    BodyHandlers.ofByteArray()).body()));
            System.out.println("put " + client.send(HttpRequest.newBuilder(URI.create(at))
                    .PUT(HttpRequest.BodyPublishers.ofByteArray(body(LARGE))).build(), BodyHandlers.ofString()).body());
        }
    }
}
