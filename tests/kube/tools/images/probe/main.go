// Proves what a cluster does for its pods: serves HTTP, and asks for names and pages from inside of a pod.
//
//	probe serve          HTTP on port 8080: every path answers with the pod's name
//	probe lookup NAME    prints the addresses of a name
//	probe get URL        prints a page
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	address    = ":8080"
	patience   = 5 * time.Second
	pageLength = 1 << 20
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "serve":
		return serve()
	case len(arguments) == 2 && arguments[0] == "lookup":
		return lookup(arguments[1])
	case len(arguments) == 2 && arguments[0] == "get":
		return get(arguments[1])
	default:
		return errors.New("usage: probe serve | lookup NAME | get URL")
	}
}

func serve() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	server := http.Server{
		Addr:              address,
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(answer, name)
		}),
	}
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-stopped.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func lookup(name string) error {
	limited, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	found, err := net.DefaultResolver.LookupHost(limited, name)
	for _, one := range found {
		fmt.Println(one)
	}
	return err
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	_, err = io.Copy(os.Stdout, io.LimitReader(answer.Body, pageLength))
	return err
}
