// streaming-client is a client of the streaming server based on client-go, like kubectl, with one selected protocol.
//
//	streaming-client exec -url URL [-transport spdy|websocket] [-protocol NAME] [-stdin] [-stdout] [-stderr] [-tty] [-sizes 80x24,100x40]
//	    Connects its stdin, stdout and stderr to the command, and exits with the command's exit code.
//	streaming-client forward -url URL [-transport spdy|websocket] -port N
//	    Listens on a free port of 127.0.0.1, prints it, and forwards connections until the end of its stdin.
//	streaming-client pairs -url URL [-transport spdy|websocket] -ports 1,8080
//	    Opens one connection with a pair of streams for each port, one after another. Sends "ping", half-closes the stream, and prints the response as a
//	    JSON line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	target    = flag.String("url", "", "URL that the runtime returned")
	transport = flag.String("transport", "spdy", "spdy or websocket")
	protocol  = flag.String("protocol", "v4.channel.k8s.io", "remote command subprotocol")
	stdin     = flag.Bool("stdin", false, "connect stdin")
	stdout    = flag.Bool("stdout", false, "connect stdout")
	stderr    = flag.Bool("stderr", false, "connect stderr")
	tty       = flag.Bool("tty", false, "the command has a terminal")
	sizes     = flag.String("sizes", "", "terminal sizes to send, in order")
	port      = flag.Int("port", 0, "port to forward to")
	ports     = flag.String("ports", "", "ports of the stream pairs")
	config    = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
)

func main() {
	mode := os.Args[1]
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	var err error
	switch mode {
	case "exec":
		err = runExec()
	case "forward":
		err = runForward()
	case "pairs":
		err = runPairs()
	default:
		err = fmt.Errorf("unknown mode %q", mode)
	}
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "streaming-client: %v\n", err)
	os.Exit(125)
}

type sizeQueue chan remotecommand.TerminalSize

func (queue sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-queue
	if !ok {
		return nil
	}
	return &size
}

func runExec() error {
	executor, err := newExecutor()
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if *stdin {
		// Hide WriteTo, so that the input is sent in chunks as kubectl sends them.
		options.Stdin = struct{ io.Reader }{os.Stdin}
	}
	if *stdout {
		options.Stdout = struct{ io.Writer }{os.Stdout}
	}
	if *stderr {
		options.Stderr = struct{ io.Writer }{os.Stderr}
	}
	if *sizes != "" {
		queue := make(sizeQueue, 16)
		for _, text := range strings.Split(*sizes, ",") {
			var size remotecommand.TerminalSize
			if _, err := fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err != nil {
				return err
			}
			queue <- size
		}
		options.TerminalSizeQueue = queue
	}
	return executor.StreamWithContext(context.Background(), options)
}

func newExecutor() (remotecommand.Executor, error) {
	address, err := url.Parse(*target)
	if err != nil {
		return nil, err
	}
	if *transport == "websocket" {
		return remotecommand.NewWebSocketExecutorForProtocols(config, "GET", *target, *protocol)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutorForProtocols(roundTripper, upgrader, "POST", address, *protocol)
}

func newDialer() (httpstream.Dialer, error) {
	address, err := url.Parse(*target)
	if err != nil {
		return nil, err
	}
	if *transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(address, config)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, "POST", address), nil
}

func runForward() error {
	dialer, err := newDialer()
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", *port)}, stop, ready, nil, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-ready
		local, err := forwarder.GetPorts()
		if err != nil {
			fail(err)
		}
		fmt.Println(local[0].Local)
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return forwarder.ForwardPorts()
}

type pairResult struct {
	Port  string `json:"port"`
	Data  string `json:"data"`
	Error string `json:"error"`
}

func runPairs() error {
	dialer, err := newDialer()
	if err != nil {
		return err
	}
	connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return err
	}
	defer connection.Close()
	for id, text := range strings.Split(*ports, ",") {
		result, err := runPair(connection, strconv.Itoa(id), text)
		if err != nil {
			return fmt.Errorf("port %s: %w", text, err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
			return err
		}
	}
	select {
	case <-connection.CloseChan():
		return errors.New("the server closed the connection")
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

func runPair(connection httpstream.Connection, id, text string) (*pairResult, error) {
	headers := http.Header{}
	headers.Set(v1.StreamType, v1.StreamTypeError)
	headers.Set(v1.PortHeader, text)
	headers.Set(v1.PortForwardRequestIDHeader, id)
	errorStream, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = errorStream.Close()
	headers.Set(v1.StreamType, v1.StreamTypeData)
	dataStream, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_, _ = io.WriteString(dataStream, "ping")
	_ = dataStream.Close()
	data, _ := io.ReadAll(dataStream)
	message, err := io.ReadAll(errorStream)
	return &pairResult{Port: text, Data: string(data), Error: string(message)}, err
}
