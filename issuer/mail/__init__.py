"""Mail: messages in the form of RFC 5322, and the queue from which they are sent."""
