// A web server, a proxy that also tunnels, and clients of both.
package main

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"time"
)

const large = 8 << 20
const patience = 20 * time.Second

func body(size int) []byte {
	block, _ := aes.NewCipher(make([]byte, 16))
	bytes := make([]byte, size)
	cipher.NewCTR(block, make([]byte, 16)).XORKeyStream(bytes, bytes)
	return bytes
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.Method == "PUT" {
		taken := sha256.New()
		io.Copy(taken, r.Body)
		fmt.Fprintf(w, "%x", taken.Sum(nil))
		return
	}
	size, _ := strconv.Atoi(r.URL.Path[1:])
	w.Write(body(size))
}

func proxy(w http.ResponseWriter, r *http.Request) {
	if r.Method != "CONNECT" {
		(&httputil.ReverseProxy{Director: func(*http.Request) {}}).ServeHTTP(w, r)
		return
	}
	there, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), 502)
		return
	}
	w.WriteHeader(200)
	here, _, err := w.(http.Hijacker).Hijack()
	check(err)
	go func() {
		io.Copy(there, here)
		there.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(here, there)
	here.Close()
}

func exchange(client *http.Client, method, at string, size int) []byte {
	var sent io.Reader
	if method == "PUT" {
		sent = bytes.NewReader(body(size))
	}
	request, err := http.NewRequest(method, "http://"+at+"/"+strconv.Itoa(size), sent)
	check(err)
	response, err := client.Do(request)
	check(err)
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	check(err)
	return got
}

func ask(at, through string) {
	transport := &http.Transport{}
	if through != "" {
		proxy, _ := url.Parse("http://" + through)
		transport.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
	}
	client := &http.Client{Transport: transport, Timeout: patience}
	sum := 0
	for i := 0; i < 1500; i++ {
		sum += len(exchange(client, "GET", at, 100+i%50))
	}
	fmt.Print(sum)
	for i := 0; i < 4; i++ {
		fmt.Printf(" %x", sha256.Sum256(exchange(client, "GET", at, large)))
		fmt.Printf(" %s", exchange(client, "PUT", at, large))
	}
	for i := 0; i < 30; i++ {
		exchange(&http.Client{Timeout: patience, Transport: &http.Transport{Proxy: transport.Proxy, DisableKeepAlives: true}}, "GET", at, 1000)
	}
}

func tunnel(at, through string) {
	for i := 0; i < 4; i++ {
		connection, err := net.Dial("tcp", through)
		check(err)
		connection.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(connection, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", at, at)
		reader := bufio.NewReader(connection)
		response, err := http.ReadResponse(reader, &http.Request{Method: "CONNECT"})
		check(err)
		fmt.Fprintf(connection, "GET /%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", large, at)
		response, err = http.ReadResponse(reader, nil)
		check(err)
		got, err := io.ReadAll(response.Body)
		check(err)
		fmt.Printf(" %x", sha256.Sum256(got))
		connection.Close()
	}
}

func main() {
	local := func(i int) string {
		if len(os.Args) <= i {
			return ""
		}
		return "127.0.0.1:" + os.Args[i]
	}
	switch os.Args[1] {
	case "serve":
		check(http.ListenAndServe(local(2), http.HandlerFunc(answer)))
	case "proxy":
		check(http.ListenAndServe(local(2), http.HandlerFunc(proxy)))
	case "ask":
		ask(local(2), local(3))
	case "tunnel":
		tunnel(local(2), local(3))
	}
}
