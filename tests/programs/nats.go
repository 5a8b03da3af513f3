// Publishes and subscribes through a NATS server and checks that everything comes, in order.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

const patience = 20 * time.Second

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func connect() *nats.Conn {
	connection, err := nats.Connect("nats://127.0.0.1:"+os.Args[1], nats.Timeout(patience))
	check(err)
	return connection
}

func stream(name string, count, size int) {
	from, to := connect(), connect()
	defer from.Close()
	defer to.Close()
	subscription, err := to.SubscribeSync(name)
	check(err)
	subscription.SetPendingLimits(-1, -1)
	check(to.Flush())
	go func() {
		for i := 0; i < count; i++ {
			message := make([]byte, size)
			for j := range message {
				message[j] = byte(i + j)
			}
			check(from.Publish(name, message))
		}
		check(from.Flush())
	}()
	got := sha256.New()
	for i := 0; i < count; i++ {
		message, err := subscription.NextMsg(patience)
		check(err)
		got.Write(message.Data)
	}
	fmt.Printf("%s %x\n", name, got.Sum(nil))
}

func requests(count int) {
	asks, answers := connect(), connect()
	defer asks.Close()
	defer answers.Close()
	_, err := answers.Subscribe("echo", func(message *nats.Msg) { message.Respond(message.Data) })
	check(err)
	check(answers.Flush())
	sum := 0
	for i := 0; i < count; i++ {
		reply, err := asks.Request("echo", make([]byte, i%300), patience)
		check(err)
		sum += len(reply.Data)
	}
	fmt.Println("replies", sum)
}

func main() {
	requests(1500)
	stream("small", 100_000, 128)
	stream("large", 100, 900_000)
}
