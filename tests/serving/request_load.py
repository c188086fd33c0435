"""Clients that ask a server without a pause, until it is gone."""

import http.client
import threading


class Clients:
    """Threads with a connection each that is kept open.

    Attributes:
        answered: bodies of complete responses with status 200.
        lost: errors after a connection was made, and other statuses.
    """

    def __init__(self, port, count, path, content, headers):
        self.port, self.path, self.content, self.headers = port, path, content, headers
        self.answered, self.lost = [], []
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def start(self):
        for thread in self._threads:
            thread.start()

    def join(self):
        for thread in self._threads:
            thread.join(60)

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.auto_open = 0
        while True:
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionError:
                    return  # the server listens no more; nothing was sent
            try:
                connection.request("POST", self.path, self.content, self.headers)
                answer = connection.getresponse()
                text = answer.read()
                (self.answered if answer.status == 200 else self.lost).append(text)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(error)
                connection.close()
