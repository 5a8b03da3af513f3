// A web server that sends and takes bodies, and a client that compares what comes back.
const http = require("http");
const crypto = require("crypto");

const [task, port] = process.argv.slice(2);
const LARGE = 8 << 20;
const body = (size) => crypto.createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(size));
const hash = () => crypto.createHash("sha256");

function serve() {
    http.createServer((request, response) => {
        if (request.method === "PUT") {
            const taken = hash();
            request.on("data", (part) => taken.update(part));
            request.on("end", () => response.end(taken.digest("hex")));
            return;
        }
        response.end(body(Number(request.url.slice(1))));
    }).listen(port, "127.0.0.1");
}

function exchange(agent, method, size) {
    return new Promise((done, failed) => {
        const request = http.request({ port, host: "127.0.0.1", method, path: `/${size}`, agent }, (response) => {
            const parts = [];
            response.on("data", (part) => parts.push(part));
            response.on("end", () => done(Buffer.concat(parts)));
            response.on("error", failed);
        });
        request.on("error", failed);
        request.end(method === "PUT" ? body(size) : undefined);
    });
}

async function ask() {
    const kept = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const small = await Promise.all(Array.from({ length: 2000 }, (_, i) => exchange(kept, "GET", 100 + i % 50)));
    console.log(`small ${small.reduce((sum, got) => sum + got.length, 0)}`);
    for (let i = 0; i < 40; i++) {
        await exchange(new http.Agent(), "GET", 1000);
    }
    for (let i = 0; i < 6; i++) {
        console.log(`got ${hash().update(await exchange(kept, "GET", LARGE)).digest("hex")}`);
        console.log(`put ${await exchange(kept, "PUT", LARGE)}`);
    }
    kept.destroy();
}

task === "serve" ? serve() : ask();
