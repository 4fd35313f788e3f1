"""Operations: everything that touches a network, a clock or a database."""
