import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.security.MessageDigest;
import java.util.Arrays;

/** Sends what it got back, and reads only what available() promises, as many Java programs do. */
public class Available {
    static final int ROUNDS = 200;
    static final int LIMIT_MILLISECONDS = 20_000;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        if (arguments[0].equals("serve")) {
            serve(port);
        } else {
            ask(port);
        }
    }

    static void serve(int port) throws Exception {
        try (ServerSocket listener = new ServerSocket(port, 16, InetAddress.getLoopbackAddress())) {
            while (true) {
                Socket socket = listener.accept();
                new Thread(() -> {
                    try (socket) {
                        byte[] buffer = new byte[1 << 16];
                        InputStream in = socket.getInputStream();
                        OutputStream out = socket.getOutputStream();
                        for (int got; (got = in.read(buffer)) > 0; ) {
                            out.write(buffer, 0, got);
                        }
                    } catch (Exception problem) {
                        problem.printStackTrace();
                    }
                }).start();
            }
        }
    }

    static void ask(int port) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        long total = 0;
        try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), port)) {
            InputStream in = socket.getInputStream();
            for (int round = 0; round < ROUNDS; round++) {
                byte[] sent = new byte[1 + round * 37];
                Arrays.fill(sent, (byte) round);
                socket.getOutputStream().write(sent);
                byte[] got = exactly(in, sent.length);
                digest.update(got);
                total += got.length;
            }
        }
        StringBuilder text = new StringBuilder();
        for (byte part : digest.digest()) {
            text.append(String.format("%02x", part));
        }
        System.out.println(total + " " + text);
    }

    static byte[] exactly(InputStream in, int length) throws Exception {
        byte[] bytes = new byte[length];
        int have = 0;
        long until = System.currentTimeMillis() + LIMIT_MILLISECONDS;
        while (have < length) {
            int there = in.available();
            if (there == 0) {
                if (System.currentTimeMillis() > until) {
                    throw new IllegalStateException("available() stays 0 after " + have + " of " + length);
                }
                Thread.sleep(0, 200_000);
                continue;
            }
            have += in.read(bytes, have, Math.min(there, length - have));
        }
        return bytes;
    }
}
